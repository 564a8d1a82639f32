//! What the kernel says of a process, held against the rules: of the visitor, and of the init, which was there before it
//! and was confined by the same record.

use quilt_record::confine::{CapSet, Rlimit, Rules, Seccomp, Status, rlimit};

/// What the prober itself can give, which a visitor can have no more than.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// Its resource limits.
    pub(crate) rlimits: Vec<Rlimit>,
    /// Whether it may raise them (CAP_SYS_RESOURCE).
    pub(crate) may_raise: bool,
    /// Whether it runs with no_new_privs, which nothing that it starts is without.
    pub(crate) no_new_privs: bool,
    /// Whether it runs under a filter of system calls, which is everybody's that it starts.
    pub(crate) filtered: bool,
}

/// What is wrong with the visitor.
pub(crate) fn visitor(rules: &Rules, own: &Own, status: &Status, rlimits: &[Rlimit]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut line = |name: &str, must: String| {
        let is = status.field(name);
        if is != must {
            wrong.push(format!("{name} is {is} and must be {must}"));
        }
    };
    let mask = |CapSet(mask): CapSet| format!("{mask:016x}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        line(set, mask(rules.capabilities));
    }
    for set in ["CapInh", "CapAmb"] {
        line(set, mask(CapSet(0)));
    }
    line("NoNewPrivs", u8::from(rules.no_new_privs || own.no_new_privs).to_string());
    let filtered = own.filtered || matches!(rules.seccomp, Seccomp::Default | Seccomp::File);
    line("Seccomp", if filtered { "2" } else { "0" }.to_owned());
    line("Umask", "0022".to_owned());
    line("Groups", String::new());
    for set in ["Uid", "Gid"] {
        line(set, "0\t0\t0\t0".to_owned());
    }
    wrong.extend(limits(rules, own, rlimits));
    wrong
}

/// What is wrong with the init. Where it has a command that runs as another user, it keeps what it takes to pass signals on
/// to it (CAP_KILL); and it has the resource limits that it needs itself, which its commands have not.
pub(crate) fn init(rules: &Rules, status: &Status) -> Vec<String> {
    const KILL: CapSet = CapSet(1 << 5);
    let more = status.capabilities("CapBnd").without(rules.capabilities).without(KILL);
    let mut wrong = Vec::new();
    if more != CapSet(0) {
        wrong.push(format!("the init has {}, which the rules have not", more.names().collect::<Vec<_>>().join(", ")));
    }
    let filtered = rules.seccomp != Seccomp::Off;
    for (name, must) in [("NoNewPrivs", u8::from(rules.no_new_privs)), ("Seccomp", if filtered { 2 } else { 0 })] {
        let is = status.field(name);
        if is != must.to_string() {
            wrong.push(format!("{name} of the init is {is} and must be {must}"));
        }
    }
    wrong
}

/// What is wrong with resource limits, be they higher, or lower than they had to be.
fn limits(rules: &Rules, own: &Own, seen: &[Rlimit]) -> Vec<String> {
    let pair = |limits: &[Rlimit], name: &str| {
        let found = limits.iter().find(|limit| limit.name == name);
        let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        found.map_or((u64::MAX, u64::MAX), |limit| (number(limit.soft), number(limit.hard)))
    };
    let mut wrong = Vec::new();
    for name in rlimit::names() {
        let (soft, hard) = pair(&rules.rlimits, name);
        let is = pair(seen, name);
        // Nobody raises the number of descriptors beyond fs.nr_open.
        let most = if own.may_raise && name != "nofile" { u64::MAX } else { pair(&own.rlimits, name).1 };
        let as_asked = (soft.min(most)..=soft).contains(&is.0) && (hard.min(most)..=hard).contains(&is.1);
        if !as_asked {
            wrong.push(format!("the resource limit {name} is {} and must be {}", text(is), text((soft, hard))));
        }
    }
    wrong
}

/// `100:200`, soft and hard; `max` for none.
fn text((soft, hard): (u64, u64)) -> String {
    let one = |limit: u64| if limit == u64::MAX { "max".to_owned() } else { limit.to_string() };
    format!("{}:{}", one(soft), one(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Umask:\t0022\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nCapInh:\t0000000000000000\n\
                        CapPrm:\t00000000800405fb\nCapEff:\t00000000800405fb\nCapBnd:\t00000000800405fb\n\
                        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    fn own(may_raise: bool, nofile: u64) -> Own {
        Own { rlimits: vec![limit("nofile", nofile, nofile)], may_raise, ..Own::default() }
    }

    fn limit(name: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit { name: name.to_owned(), soft: Some(soft), hard: Some(hard) }
    }

    #[test]
    fn what_the_prober_is_under_itself_is_no_deviation() {
        let open = Rules { no_new_privs: false, seccomp: Seccomp::Off, ..Rules::default() };
        let caller = Own { no_new_privs: true, filtered: true, ..own(true, 64) };
        let of = |rules: &Rules, own: &Own| visitor(rules, own, &GOOD.into(), &rules.rlimits);
        assert_eq!(of(&open, &caller), [""; 0]);
        assert_eq!(of(&open, &own(true, 64)).len(), 2);
    }

    #[test]
    fn an_init_that_is_held_to_less_is_found() {
        let rules = Rules::default();
        assert_eq!(init(&rules, &GOOD.into()), [""; 0]);
        let bad = GOOD.replace("800405fb", "800425fb").replace("vs:\t1", "vs:\t0").replace("mp:\t2", "mp:\t0");
        let wrong = [
            "the init has CAP_NET_RAW, which the rules have not",
            "NoNewPrivs of the init is 0 and must be 1",
            "Seccomp of the init is 0 and must be 2",
        ];
        assert_eq!(init(&rules, &Status::from(&*bad)), wrong);
    }

    #[test]
    fn a_visitor_that_is_held_to_less_is_found() {
        let (rules, limits) = (Rules::default(), Rules::default().rlimits);
        assert_eq!(visitor(&rules, &own(true, 9), &GOOD.into(), &limits), [""; 0]);
        let bad = GOOD.replace("CapBnd:\t00000000800405fb", "CapBnd:\t000001ffffffffff");
        let wrong = ["CapBnd is 000001ffffffffff and must be 00000000800405fb"];
        assert_eq!(visitor(&rules, &own(true, 9), &Status::from(&*bad), &limits), wrong);
    }

    #[test]
    fn limits_that_are_lower_than_asked_are_found_but_where_none_could_raise_them() {
        let with = |limits: &[Rlimit]| Rules { rlimits: limits.to_vec(), ..Rules::default() };
        let asked = with(&[limit("nofile", 100, 200), limit("nproc", 50, 50)]);
        let lower = [limit("nofile", 64, 80), limit("nproc", 50, 50)];
        let wrong = ["the resource limit nofile is 64:80 and must be 100:200"];
        assert_eq!(limits(&asked, &own(true, 4096), &lower), wrong);
        assert_eq!(limits(&asked, &own(false, 80), &lower), wrong, "the soft one could be higher");
        let most = [limit("nofile", 80, 80), limit("nproc", 50, 50)];
        assert_eq!(limits(&asked, &own(false, 80), &most), [""; 0]);
        let wrong = ["the resource limit nofile is 80:80 and must be 100:200"];
        assert_eq!(limits(&asked, &own(true, 4096), &most), wrong);
        // As many descriptors as there can be.
        let all = with(&[]);
        assert_eq!(limits(&all, &own(true, 4096), &[limit("nofile", 4096, 4096)]), [""; 0]);
        let one = [limit("nproc", 9, 9)];
        let wrong = ["the resource limit nproc is 9:9 and must be max:max"];
        assert_eq!(limits(&all, &own(true, 4096), &one), wrong);
    }
}
