//! What the one who calls Quilt has, and what runs inside must not get: capabilities and groups (A9), descriptors (A3), the
//! terminal and the keyring (A13), the mask of modes and the limits.

use crate::harness::teeth::{attack, everywhere};

/// Fails if a capability that the caller passes on (inheritable, ambient) or one of the caller's groups is passed on inside.
#[test]
fn a_callers_capabilities_and_groups_stay_outside() {
    let caller = ["setpriv", "--inh-caps=+sys_admin", "--ambient-caps=+sys_admin", "--groups=4242", "--"];
    let line = "grep -E '^(Cap|Groups)' /proc/self/status";
    for (defence, harm) in [("capabilities", "0000000000200000"), ("groups", "4242")] {
        let done = attack("caller", defence, |world| {
            let said = everywhere(world, &caller, &[], line);
            let has = |text: &str| text.lines().any(|line| line.split_ascii_whitespace().any(|word| word == harm));
            said.iter().filter(|(_, text)| has(text)).map(|(way, text)| format!("{way}: {text}")).collect()
        });
        assert_eq!(done.len(), 3, "{done:?}");
    }
}
