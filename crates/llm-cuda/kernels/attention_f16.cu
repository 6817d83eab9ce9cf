// Attention to keys and values in f16: see attention_rows.cuh.
#include "attention_rows.cuh"

ROWS_OF(f16, __half)
