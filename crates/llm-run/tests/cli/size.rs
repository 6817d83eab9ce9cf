//! The program's own size.

/// Kernels and line tables in it are compressed: as they are they would be 60 MB.
#[test]
#[cfg_attr(debug_assertions, ignore = "of what users build, the release profile")]
#[cfg(target_os = "linux")]
fn the_program_is_no_larger_than_a_small_model() {
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_llm-run")).unwrap();
    assert!(program.len() < 50_000_000, "{} bytes", program.len());
}
