// Attention of many query rows to keys and values in f16: see attention_tile.cuh.
// needs: 80
#include "attention_tile.cuh"

TILE(f16, __half, 64, 2)
TILE(f16, __half, 128, 2)
TILE(f16, __half, 256, 2)
