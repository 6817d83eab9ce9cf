//! Calls into the `tokenizers` library on data that nobody has vouched for.
//!
//! It panics on some descriptions that parse but make no sense, such as a merge longer than every token or a
//! post-processor that names a token it does not define. To our callers these are broken files.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::one_line;

/// Runs code of the library and returns its error, or what it panicked with, in one line.
///
/// The panic itself prints nothing. That needs a hook of the process, which is put in front of the one before it,
/// once, and holds its tongue only on a thread that is within this function.
pub(crate) fn shielded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |panic| {
            if !SHIELDED.try_with(Cell::get).unwrap_or(false) {
                previous(panic);
            }
        }));
    });
    let before = SHIELDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    SHIELDED.set(before);
    match result {
        Ok(result) => result.map_err(one_line),
        Err(panic) => Err(format!(
            "it contradicts itself, so that the tokenizers library gives up: {}",
            words(&*panic)
        )),
    }
}

/// Message of a panic, as far as it is text.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    one_line(text.unwrap_or("it does not say why"))
}

static HOOK: Once = Once::new();

thread_local! {
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let error = shielded::<()>(|| panic!("no such\ntoken {}", 7)).unwrap_err();
        assert!(error.ends_with("gives up: no such token 7"), "{error}");
        let error = shielded::<()>(|| panic!("no")).unwrap_err();
        assert!(error.ends_with("gives up: no"), "{error}");
        let error = shielded::<()>(|| Err("plain".into())).unwrap_err();
        assert_eq!(error, "plain");
        assert!(!SHIELDED.get());
    }

    #[test]
    fn threads_are_shielded_one_by_one() {
        let inner = shielded(|| Ok(std::thread::spawn(|| SHIELDED.get()).join().unwrap()));
        assert!(!inner.unwrap());
        // One within the other: the outer is still in force.
        let outer = shielded(|| {
            let _ = shielded::<()>(|| panic!("inner"));
            Ok(SHIELDED.get())
        });
        assert!(outer.unwrap());
    }
}
