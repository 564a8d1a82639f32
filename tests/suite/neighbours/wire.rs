//! Who sends what on the wires: containers on a bridge, the host, and a world beyond it.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Run, Running, World, eventually, patient};

pub const SPOOF: &str = include_str!("../harness/spoof.py");

pub fn ip(args: &str) -> String {
    Run::new("ip").args(&args.split(' ').collect::<Vec<_>>()).go().ok().stdout
}

pub fn link(record: &Value, key: &str) -> String {
    record["netns"]["have"]["link"][key].as_str().unwrap().to_owned()
}

/// Two containers on one bridge; the first is the attacker.
pub struct Pair {
    pub bridge: String,
    pub gateway_mac: String,
    pub pids: [String; 2],
    pub addresses: [String; 2],
}

pub const GATEWAY: &str = "10.91.0.1";

impl Pair {
    pub fn new(world: &World, second: &str) -> Pair {
        let records = [world.create("attacker", &["--ip", "10.91.2.7"]), world.create("victim", &["--ip", second])];
        let bridge = link(&records[0], "bridge");
        let shown = ip(&format!("-o link show dev {bridge}"));
        let gateway_mac = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let pids = ["attacker", "victim"].map(|name| world.init(name).to_string());
        Pair { bridge, gateway_mac, pids, addresses: records.map(|record| link(&record, "address")) }
    }

    /// Sends the frames; a line for each that came out where it should not.
    pub fn spoof(&self, frames: &str) -> Vec<String> {
        let [one, two] = &self.addresses;
        let mut args =
            vec!["-c", SPOOF, &self.bridge, &self.pids[0], &self.pids[1], one, two, GATEWAY, &self.gateway_mac];
        args.extend(frames.split_whitespace());
        Run::new("python3").args(&args).go().ok().stdout.lines().map(str::to_owned).collect()
    }
}

/// A program that runs in a container's network namespace, and nowhere else of it.
pub fn inside(world: &World, pid: &str, args: &[&str]) -> Run {
    world.run("busybox", &[&["nsenter", "-t", pid, "-n"], args].concat())
}

/// How long who connects waits, in seconds: what is dropped is never answered.
fn patience() -> [String; 2] {
    let seconds = if patient(Duration::from_secs(1)) > Duration::from_secs(1) { 5 } else { 1 };
    [seconds.to_string(), (2 * seconds).to_string()]
}

/// Whether a TCP connection to there is served with `hi`, from a container's network namespace.
pub fn connects(world: &World, pid: &str, to: &str, port: u16) -> bool {
    let [one, all] = patience();
    inside(world, pid, &["timeout", &all, "nc", "-w", &one, to, &port.to_string()]).go().stdout == "hi\n"
}

/// The same from the host.
pub fn host_connects(world: &World, to: &str, port: u16) -> bool {
    let [one, all] = patience();
    world.run("busybox", &["timeout", &all, "nc", "-w", &one, to, &port.to_string()]).go().stdout == "hi\n"
}

/// Says `hi` to whoever connects, in the network namespace of a process (the host's, if none is given), while it lives.
pub fn serve(world: &World, pid: Option<&str>, port: u16) -> Running {
    let server = format!(
        "import socket\ns = socket.create_server(('', {port}))\nwhile True:\n c, _ = s.accept()\n c.sendall(b'hi\\n')\n c.close()"
    );
    let running = match pid {
        Some(pid) => inside(world, pid, &["python3", "-c", &server]),
        None => world.run("python3", &["-c", &server]),
    };
    let running = running.limit(Duration::from_secs(60)).start();
    let own = running.pid.to_string();
    assert!(eventually(Duration::from_secs(10), || connects(world, &own, "127.0.0.1", port)), "nobody serves");
    running
}

pub fn end(running: Running) {
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.finish();
}

/// A network namespace behind a link of its own, with these addresses: `out0` on the host's side is 192.0.2.1.
pub fn outside(world: &World, addresses: &[&str]) -> Running {
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let outside = world.run("busybox", &["unshare", "-n", "sleep", "600"]).limit(Duration::from_secs(60)).start();
    let pid = outside.pid.to_string();
    let apart = || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns != own);
    assert!(eventually(Duration::from_secs(5), apart));
    ip("link add out0 type veth peer name out1");
    ip(&format!("link set out1 netns {pid}"));
    ip("addr add 192.0.2.1/24 dev out0");
    ip("link set out0 up");
    let mut there: Vec<String> =
        ["link set lo up", "link set out1 up", "addr add 192.0.2.2/24 dev out1"].map(Into::into).into();
    there.extend(addresses.iter().map(|address| format!("addr add {address}/32 dev out1")));
    for args in there {
        inside(world, &pid, &[&["ip"], &args.split(' ').collect::<Vec<_>>()[..]].concat()).go().ok();
    }
    outside
}
