/// Methods of `Simd` that are one intrinsic each.
macro_rules! intrinsics {
    ($($method:ident($($argument:ident),*) = $intrinsic:ident;)*) => {$(
        #[inline(always)]
        fn $method(self, $($argument: Self::F32),*) -> Self::F32 {
            // SAFETY: the token proves that the machine has the instruction set.
            unsafe { $intrinsic($($argument),*) }
        }
    )*};
}

pub(super) use intrinsics;
