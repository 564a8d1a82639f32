//! Defences that a test can take out, one at a time, to show that the attack which it stops succeeds without it.
//!
//! Only a build with the feature `teeth` has the switch (the environment variable `QUILT_WITHOUT`, names separated by
//! commas); `scripts/build` never sets it, and a test looks for the variable's name in the tools that it builds.

/// Whether this defence is taken out. `false` in every build without the feature `teeth`, known when it is compiled.
#[cfg(not(feature = "teeth"))]
#[inline(always)]
pub const fn out(_defence: &str) -> bool {
    false
}

/// Whether this defence is taken out.
#[cfg(feature = "teeth")]
pub fn out(defence: &str) -> bool {
    static OUT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let out = OUT.get_or_init(|| std::env::var("QUILT_WITHOUT").unwrap_or_default());
    out.split(',').any(|name| name == defence)
}

/// What a program of Quilt's that does not get its maker's environment must have in its own, so that the same is out in it.
#[cfg(not(feature = "teeth"))]
#[inline(always)]
pub const fn handed_on() -> Option<String> {
    None
}

/// What a program of Quilt's that does not get its maker's environment must have in its own, so that the same is out in it.
#[cfg(feature = "teeth")]
pub fn handed_on() -> Option<String> {
    std::env::var("QUILT_WITHOUT").ok().map(|out| format!("QUILT_WITHOUT={out}"))
}
