// Weights of INT8 codes with a scale for each group: see packed.cuh and grouped.cuh.
// only: 75
#include "grouped.cuh"

PACKED(int8, Groups<INT8>)
