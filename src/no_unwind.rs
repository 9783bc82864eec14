//! The unwinder of a program whose panics abort: there is none. Touches nothing.
//!
//! The standard library is built to unwind. It would bring libunwind and, for the
//! backtraces of its own panic message, a reader of debug information: 278 KiB, which the
//! budget does not have, and nothing for them to read, because `no-unwind.ld` drops the
//! tables and `strip` the debug information. Should the standard library come to need more
//! of the objects these functions replace, or be linked without `lto = "fat"`, they are
//! defined twice and the build fails; nothing goes wrong at run time.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// Finds no frame: `_URC_END_OF_STACK`.
// SAFETY: the name is libunwind's, and so is the signature.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_callback: *const c_void, _data: *mut c_void) -> c_int {
    5
}

/// What runs while a stack is unwound, which nothing can begin.
macro_rules! never_called {
    ($($name:ident)*) => {$(
        // SAFETY: the name is libunwind's; without arguments, and without returning,
        // it can be called as any signature.
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            std::process::abort()
        }
    )*};
}

never_called! {
    _Unwind_Resume
    _Unwind_GetDataRelBase
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_SetGR
    _Unwind_SetIP
}
