// Attention to keys and values in f32: see attention_rows.cuh.
#include "attention_rows.cuh"

ROWS_OF(f32, float)
