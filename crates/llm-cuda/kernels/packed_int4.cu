// Weights of INT4 codes with a scale for each group: see packed.cuh and grouped.cuh.
// only: 75
#include "grouped.cuh"

PACKED(int4, Groups<INT4>)
