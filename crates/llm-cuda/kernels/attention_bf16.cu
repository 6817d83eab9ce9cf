// Attention to keys and values in bf16: see attention_rows.cuh.
#include "attention_rows.cuh"

ROWS_OF(bf16, __nv_bfloat16)
