/// Methods that are an expression of intrinsics each; a token proves that the machine has these.
macro_rules! by_token {
    ($(fn $method:ident($($argument:ident: $ty:ty),*) $(-> $result:ty)? = $value:expr;)*) => {$(
        #[inline(always)]
        fn $method(self, $($argument: $ty),*) $(-> $result)? {
            // SAFETY: the token proves that the machine has the instruction set.
            unsafe { $value }
        }
    )*};
}

/// The same where callers promise something beside.
macro_rules! by_promise {
    ($(fn $method:ident($($argument:ident: $ty:ty),*) $(-> $result:ty)? = $value:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $method(self, $($argument: $ty),*) $(-> $result)? {
            // SAFETY: as the caller promises, and the token.
            unsafe { $value }
        }
    )*};
}

pub(super) use {by_promise, by_token};
