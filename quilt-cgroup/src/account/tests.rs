//! Trees of files as kernels have them, in a directory of the test's own.

use std::fs;
use std::io;
use std::path::PathBuf;

use quilt_record::have::{Cgroup, Hierarchy};
use serde_json::{Value, json};

use super::account;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> io::Result<Tree> {
        let tree = Tree(std::env::temp_dir().join(format!("quilt-account-{}-{name}", std::process::id())));
        for (file, text) in files {
            let path = tree.0.join(file);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, text)?;
        }
        Ok(tree)
    }

    fn cgroup(&self, hierarchies: &[(u8, &str, &str)]) -> Cgroup {
        let hierarchy = |(version, controllers, path): &(u8, &str, &str)| Hierarchy {
            version: *version,
            controllers: (*controllers).to_owned(),
            path: self.0.join(path),
        };
        let hierarchies = hierarchies.iter().map(hierarchy).collect();
        Cgroup { boot: String::new(), version: String::new(), hierarchies, devices: Vec::new(), notes: Vec::new() }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const IDLE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

const MEMORY_STAT_V1: &str = "cache 0\nrss 0\nswap 0\nhierarchical_memory_limit 33554432\ntotal_cache 49152\n\
    total_rss 4096\ntotal_rss_huge 0\ntotal_swap 8192\n";

const MEMORY_V1: [(&str, &str); 9] = [
    ("memory/q/box/memory.usage_in_bytes", "557056\n"),
    ("memory/q/box/memory.max_usage_in_bytes", "10092544\n"),
    ("memory/q/box/memory.limit_in_bytes", "33554432\n"),
    ("memory/q/box/memory.memsw.limit_in_bytes", "67108864\n"),
    ("memory/q/box/memory.stat", MEMORY_STAT_V1),
    ("memory/q/box/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
    ("memory/q/box/init/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ("memory/q/box/x-7/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ("memory/q/box/x-7/below/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
];

fn memory() -> Value {
    json!({
        "current_bytes": 557_056, "peak_bytes": 10_092_544, "limit_bytes": 33_554_432, "file_bytes": 49_152,
        "anon_bytes": 4096, "swap_bytes": 8192, "swap_limit_bytes": 33_554_432, "oom_kills": 10,
    })
}

const CPU_V1: [(&str, &str); 3] = [
    ("cpu/q/box/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 5000000\nnr_bursts 0\nburst_time 0\n"),
    ("cpu/q/box/cpu.cfs_quota_us", "20000\n"),
    ("cpu/q/box/cpu.cfs_period_us", "100000\n"),
];

const PIDS: [(&str, &str); 5] = [
    ("pids/q/box/pids.current", "3\n"),
    ("pids/q/box/pids.max", "2048\n"),
    ("pids/q/box/pids.peak", "5\n"),
    ("pids/q/box/pids.events", "max 1\n"),
    ("pids/q/box/init/pids.events", "max 1\n"),
];

fn pids() -> Value {
    json!({"current": 3, "limit": 2048, "peak": 5, "refused": 2})
}

#[test]
fn v1_alone() -> Result {
    let more = [
        ("cpuacct/q/box/cpuacct.usage", "10598147\n"),
        ("cpuacct/q/box/cpuacct.stat", "user 3\nsystem 7\n"),
        ("blkio/blkio.throttle.io_service_bytes_recursive", "Total 0\n"),
        ("blkio/q/box/blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Write 512\nTotal 4608\n"),
        ("blkio/q/box/blkio.throttle.io_serviced_recursive", "8:0 Read 2\n8:0 Write 1\nTotal 3\n"),
        ("blkio/q/box/blkio.bfq.io_service_bytes_recursive", "8:0 Read 9\n8:16 Read 1024\nTotal 1033\n"),
        ("blkio/q/box/blkio.bfq.io_serviced_recursive", "8:0 Read 9\n8:16 Read 1\nTotal 10\n"),
    ];
    let tree = Tree::new("v1", &[&MEMORY_V1[..], &CPU_V1, &PIDS, &more].concat())?;
    let found = account(&tree.cgroup(&[
        (1, "memory", "memory/q/box"),
        (1, "cpu", "cpu/q/box"),
        (1, "cpuacct", "cpuacct/q/box"),
        (1, "pids", "pids/q/box"),
        (1, "blkio", "blkio/q/box"),
        (1, "freezer", "freezer/q/box"),
    ]))?;
    let expected = json!({
        "memory": memory(),
        "cpu": {
            "usage_us": 10_598, "user_us": 30_000, "system_us": 70_000, "limit_cpus": 0.2, "periods": 9,
            "throttled_periods": 4, "throttled_us": 5000,
        },
        "pids": pids(),
        "io": {"read_bytes": 5120, "write_bytes": 512, "reads": 3, "writes": 1},
        "pressure": null,
    });
    assert_eq!(serde_json::to_value(found)?, expected);
    Ok(())
}

#[test]
fn hybrid() -> Result {
    let more = [
        ("unified/q/box/cpu.stat", "usage_usec 10598\nuser_usec 2649\nsystem_usec 7948\nnice_usec 0\n"),
        ("unified/q/box/cpu.pressure", IDLE),
        ("unified/q/box/memory.pressure", IDLE),
        ("unified/q/box/io.pressure", IDLE),
        ("blkio/blkio.throttle.io_service_bytes_recursive", "Total 0\n"),
        ("blkio/q/blkio.throttle.io_service_bytes_recursive", "Total 0\n"),
        ("blkio/q/box/blkio.throttle.io_service_bytes_recursive", "Total 0\n"),
    ];
    let tree = Tree::new("hybrid", &[&MEMORY_V1[..], &CPU_V1, &PIDS, &more].concat())?;
    let cgroup = tree.cgroup(&[
        (1, "memory", "memory/q/box"),
        (1, "cpu,cpuacct", "cpu/q/box"),
        (1, "pids", "pids/q/box"),
        (1, "blkio", "blkio/q/box"),
        (2, "", "unified/q/box"),
    ]);
    let stall = json!({"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total_us": 0});
    let stalls = json!({"some": stall, "full": stall});
    let mut expected = json!({
        "memory": memory(),
        "cpu": {
            "usage_us": 10_598, "user_us": 2649, "system_us": 7948, "limit_cpus": 0.2, "periods": 9,
            "throttled_periods": 4, "throttled_us": 5000,
        },
        "pids": pids(),
        "io": null,
        "pressure": {"cpu": stalls, "memory": stalls, "io": stalls},
    });
    assert_eq!(serde_json::to_value(account(&cgroup)?)?, expected);
    // Where the root has devices, nothing is what this container has read.
    fs::write(tree.0.join("blkio/blkio.throttle.io_service_bytes_recursive"), "8:0 Read 4096\nTotal 4096\n")?;
    expected["io"] = json!({"read_bytes": 0, "write_bytes": 0, "reads": 0, "writes": 0});
    assert_eq!(serde_json::to_value(account(&cgroup)?)?, expected);
    Ok(())
}

#[test]
fn v2_new_and_old() -> Result {
    let old = [
        ("q/box/memory.current", "557056\n"),
        ("q/box/memory.max", "max\n"),
        ("q/box/memory.stat", "anon 4096\nfile 49152\nkernel_stack 0\n"),
        ("q/box/memory.swap.current", "0\n"),
        ("q/box/memory.swap.max", "max\n"),
        ("q/box/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 3\n"),
        (
            "q/box/cpu.stat",
            "usage_usec 500\nuser_usec 400\nsystem_usec 100\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
        ),
        ("q/box/cpu.max", "max 100000\n"),
        ("q/box/pids.current", "1\n"),
        ("q/box/pids.max", "max\n"),
        ("q/box/pids.events", "max 2\n"),
    ];
    let tree = Tree::new("v2", &old)?;
    let cgroup = tree.cgroup(&[(2, "memory,cpu,pids", "q/box")]);
    let mut expected = json!({
        "memory": {
            "current_bytes": 557_056, "peak_bytes": null, "limit_bytes": null, "file_bytes": 49_152,
            "anon_bytes": 4096, "swap_bytes": 0, "swap_limit_bytes": null, "oom_kills": 3,
        },
        "cpu": {
            "usage_us": 500, "user_us": 400, "system_us": 100, "limit_cpus": null, "periods": 0,
            "throttled_periods": 0, "throttled_us": 0,
        },
        "pids": {"current": 1, "limit": null, "peak": null, "refused": 2},
        "io": null,
        "pressure": null,
    });
    assert_eq!(serde_json::to_value(account(&cgroup)?)?, expected);
    let some = "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n";
    for (file, text) in [
        ("memory.peak", "600000\n"),
        ("memory.max", "33554432\n"),
        ("memory.swap.max", "0\n"),
        ("cpu.max", "150000 100000\n"),
        ("pids.peak", "4\n"),
        ("pids.events", "max 5\n"),
        ("pids.events.local", "max 5\n"),
        ("io.stat", "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"),
        ("cpu.pressure", some),
    ] {
        fs::write(tree.0.join("q/box").join(file), text)?;
    }
    for (place, value) in [
        ("/memory/peak_bytes", json!(600_000)),
        ("/memory/limit_bytes", json!(33_554_432)),
        ("/memory/swap_limit_bytes", json!(0)),
        ("/cpu/limit_cpus", json!(1.5)),
        ("/pids/peak", json!(4)),
        ("/pids/refused", json!(5)),
        ("/io", json!({"read_bytes": 4096, "write_bytes": 0, "reads": 1, "writes": 0})),
        (
            "/pressure",
            json!({
                "cpu": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total_us": 9}, "full": null},
                "memory": null,
                "io": null,
            }),
        ),
    ] {
        expected.pointer_mut(place).map(|at| *at = value).ok_or(place)?;
    }
    assert_eq!(serde_json::to_value(account(&cgroup)?)?, expected);
    Ok(())
}

#[test]
fn a_container_that_is_gone_has_the_same_fields() -> Result {
    let tree = Tree::new("gone", &[])?;
    let found = account(&tree.cgroup(&[(1, "memory", "memory/q/box"), (2, "", "unified/q/box")]))?;
    assert_eq!(found, super::Account::default());
    let value = serde_json::to_value(found)?;
    assert_eq!((value["memory"].as_object().map(|o| o.len()), &value["cpu"]["usage_us"]), (Some(8), &Value::Null));
    Ok(())
}
