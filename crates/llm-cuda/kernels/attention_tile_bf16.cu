// Attention of many query rows to keys and values in bf16: see attention_tile.cuh.
// needs: 80
#include "attention_tile.cuh"

TILE(bf16, __nv_bfloat16, 64, 3)
TILE(bf16, __nv_bfloat16, 128, 3)
TILE(bf16, __nv_bfloat16, 256, 3)
