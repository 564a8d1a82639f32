//! Plans of containers for which more is asked than a command.

use super::tests::input;
use super::{Step, plan};
use crate::want::Want;

#[test]
fn what_is_asked_for_beside() -> Result<(), quilt_record::Error> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let mut input = input();
    input.want = Want {
        volume: words("/src:/data/in /file:/etc/one:ro"),
        tmpfs: words("/data"),
        sysctl: words("net.core.somaxconn=9"),
        shm_size: Some(quilt_record::units::Size(1 << 20)),
        workdir: Some("/data/work".into()),
        read_only: true,
        ..Want::default()
    };
    (input.extras, input.sysctls) = (input.want.extras()?, input.want.sysctls()?);
    let lines: Vec<String> = plan(&input).iter().map(Step::to_string).collect();
    let after = |line: &str| lines.iter().skip_while(|l| *l != line).skip(1).cloned().collect::<Vec<_>>();
    assert_eq!(after("setns to the network namespace /q/run/ns/c")[0], "write /proc/sys/net/core/somaxconn: 9");
    assert!(lines.contains(&"mount tmpfs on /dev/shm (nosuid,nodev,noexec,mode=1777,size=1048576)".to_owned()));
    let expected = [
        "mount tmpfs on /data (nosuid,nodev,noexec,mode=1777)",
        "bind /src on /data/in (nosuid,nodev)",
        "bind /file on /etc/one (ro,nosuid,nodev)",
        "find the user 0",
        "make the directory /data/work",
        "check 3 masks",
        "mount / anew (ro)",
        "sethostname c",
    ];
    assert_eq!(after("bind /proc/sys on /proc/sys (ro)")[..8], expected);

    input.want = Want { privileged: true, ..Want::default() };
    let lines: Vec<String> = plan(&input).iter().map(Step::to_string).collect();
    assert!(lines.contains(&"mount overlay on / () lowerdir /i upperdir /q/c/upper workdir /q/c/work".to_owned()));
    assert!(lines.contains(&"mount sysfs on /sys (nosuid,nodev,noexec)".to_owned()));
    assert!(!lines.iter().any(|line| line.ends_with("on /proc/keys") || line.ends_with("(ro)")), "{lines:#?}");
    Ok(())
}
