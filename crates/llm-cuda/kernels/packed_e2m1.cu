// Weights of E2M1 codes with a scale for each group: see packed.cuh and grouped.cuh.
// only: 75
#include "grouped.cuh"

PACKED(e2m1, Groups<E2M1>)
