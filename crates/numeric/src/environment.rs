//! The floating-point environment that the kernels assume.

/// Asserts that this thread rounds half to even and keeps subnormals, masking all floating-point exceptions.
///
/// # Panics
/// If somebody changed the environment: results would differ from other machines', so computing must stop.
pub(crate) fn assert_default() {
    #[cfg(all(target_arch = "x86_64", not(miri)))] // Miri has the default and no assembly
    {
        /// Flush to zero, rounding control, exception masks and denormals-are-zero; all but the sticky flags.
        const CONTROL_BITS: u32 = 0xffc0;
        const DEFAULT: u32 = 0x1f80;
        let mut state = 0u32;
        // SAFETY: stmxcsr writes the four bytes that the pointer designates and has no other effect; SSE is part of
        // x86-64.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut state, options(nostack, preserves_flags));
        }
        assert_eq!(
            state & CONTROL_BITS,
            DEFAULT,
            "floating-point environment is not the default: mxcsr"
        );
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        let state: u64;
        // SAFETY: reads a register that user code may read.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) state, options(nomem, nostack, preserves_flags));
        }
        assert_eq!(
            state, 0,
            "floating-point environment is not the default: fpcr"
        );
    }
}
