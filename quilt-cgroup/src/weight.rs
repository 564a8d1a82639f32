//! One weight in the units of each controller. 100 is what a cgroup has that nobody set one for.

/// `cpu.weight` for a share in percent, clamped to what the kernel takes (`CGROUP_WEIGHT_MIN`, `_MAX`).
pub(crate) fn of_percent(percent: f64) -> u64 {
    (percent / 100.0 * 1000.0).round().clamp(1.0, 10_000.0) as u64
}

/// `cpu.shares` for a weight. The kernel makes shares of `cpu.weight` in just this way (`sched_weight_from_cgroup`,
/// `kernel/sched/sched.h`), so a weight means the same on both: 100 and 1024 are what a cgroup has that nobody set.
pub(crate) fn to_shares(weight: u64) -> u64 {
    ((weight * 1024 + 50) / 100).clamp(2, 262_144)
}

/// `cpu.weight` for docker's shares: least, default and most of the one are those of the other, which no straight line
/// does. runc's curve, since 1.3.2 (and crun's): 10 ^ ((l^2 + 125 l) / 612 - 7/34), l being the shares' logarithm to the
/// base of 2 (`ConvertCPUSharesToCgroupV2Value`, opencontainers/cgroups).
pub(crate) fn of_shares(shares: u64) -> u64 {
    let l = (shares as f64).log2();
    let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
    // Rounded up, but not for the last bit of a floating-point number.
    ((weight - 1e-9).ceil() as u64).clamp(1, 10_000)
}

/// BFQ's weight, which ends at 1000 and has the same default: two straight lines that meet there, as systemd does it
/// (`BFQ_WEIGHT`, systemd `src/basic/cgroup-util.h`).
pub(crate) fn to_bfq(weight: u64) -> u64 {
    if weight <= 100 { weight.max(1) } else { 100 + (weight.min(10_000) - 100) * 900 / 9900 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_a_weight_on_v2_and_the_same_weight_on_v1() {
        for (percent, expected) in [(10.0, (100, 1024)), (50.0, (500, 5120)), (0.01, (1, 10)), (1e9, (10_000, 102_400))]
        {
            assert_eq!((of_percent(percent), to_shares(of_percent(percent))), expected, "{percent}");
        }
    }

    #[test]
    fn shares_become_what_runc_makes_of_them() {
        for (shares, weight) in [(2, 1), (512, 59), (1024, 100), (2048, 174), (10_240, 639), (262_144, 10_000)] {
            assert_eq!(of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn bfq_keeps_the_default_and_the_ends() {
        for (weight, bfq) in [(1, 1), (50, 50), (100, 100), (1000, 181), (10_000, 1000)] {
            assert_eq!(to_bfq(weight), bfq, "{weight}");
        }
    }
}
