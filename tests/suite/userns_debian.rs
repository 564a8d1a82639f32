//! What people do as root of a Debian, in a user namespace: packages, users, pip, git, archives, setuid programs. Without a
//! network: the packages are made here.

use std::fs;
use std::time::Duration;

use crate::harness::{Out, World, images, skip};

/// One test, as unpacking takes longer than all the rest.
#[test]
fn what_people_do_as_root_of_a_debian() {
    let image = match images::workshop() {
        Ok(image) => image,
        Err(why) => return skip("what_people_do_as_root_of_a_debian", &why),
    };
    let world = World::new("workshop");
    if !world.has_userns() {
        return skip("what_people_do_as_root_of_a_debian", "no user namespaces for containers here");
    }
    let create = |options: &[&str]| {
        let args = ["create", image.to_str().unwrap(), "--name", "box", "--userns", "auto", "--network", "none"];
        world.command(&[&args[..], options].concat()).limit(Duration::from_secs(180)).go().ok();
    };
    let remove = || world.command(&["rm", "-f", "box"]).limit(Duration::from_secs(60)).go().ok();
    create(&[]);
    packages_users_and_archives(&world);
    remove();
    create(&[]);
    pip_git_and_python(&world);
    remove();
    create(&["--no-new-privs", "off"]);
    setuid_programs_if_they_may(&world);
    remove();
}

fn sh(world: &World, script: &str) -> Out {
    let args = ["exec", "-i", "-e", "DEBIAN_FRONTEND=noninteractive", "box", "sh", "-eu"];
    world.command(&args).stdin(script).limit(Duration::from_secs(120)).go()
}

#[track_caller]
fn says(world: &World, script: &str, expected: &str) {
    let out = sh(world, script);
    assert_eq!((out.status, out.stdout.as_str()), (0, expected), "{out:#?}");
}

fn packages_users_and_archives(world: &World) {
    // A package with files of somebody else's, a user made when it is installed, and a setuid program.
    let package = r#"
mkdir -p /tmp/p/DEBIAN /tmp/p/opt/tool
printf 'Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: x\nDepends: bash\n' >/tmp/p/DEBIAN/control
printf '#!/bin/sh\nset -e\nadduser --quiet --system --group --home /var/lib/tool tool\nchown tool:tool /opt/tool/data\n' >/tmp/p/DEBIAN/postinst
chmod 755 /tmp/p/DEBIAN/postinst
echo data >/tmp/p/opt/tool/data; cp /usr/bin/id /tmp/p/opt/tool/id; chmod 6755 /tmp/p/opt/tool/id; chown 0:8 /tmp/p/opt/tool
dpkg-deb --build /tmp/p /tmp/tool.deb >/dev/null
apt-get -qq install -y /tmp/tool.deb >/dev/null 2>&1
dpkg -i /tmp/tool.deb >/dev/null
stat -c '%U:%G %a %n' /opt/tool /opt/tool/data /opt/tool/id /var/lib/tool
"#;
    says(
        world,
        package,
        "root:mail 755 /opt/tool\ntool:tool 644 /opt/tool/data\nroot:root 6755 /opt/tool/id\ntool:tool 755 /var/lib/tool\n",
    );
    let users = "adduser --quiet --disabled-password --gecos '' bob; su bob -c 'id -un; cd; umask 27; touch f; stat -c %U:%a f'; \
                 su - bob -c 'pwd; cat /etc/shadow 2>/dev/null || echo refused'; echo bob:secret | chpasswd; chage -l bob | wc -l";
    says(world, users, "bob\nbob:640\n/home/bob\nrefused\n7\n");
    let archive = "cd /tmp; chown -R bob:40 /opt/tool; tar -cf a.tar -C / etc/shadow opt/tool; mkdir out; tar -C out -xpf a.tar; \
                   stat -c '%u:%g %a %n' out/etc/shadow out/opt/tool/data out/opt/tool/id; cp -a out copy; diff -r out copy; \
                   setcap cap_chown+ep copy/opt/tool/id; getcap copy/opt/tool/id";
    says(
        world,
        archive,
        "0:42 640 out/etc/shadow\n1000:40 644 out/opt/tool/data\n1000:40 755 out/opt/tool/id\ncopy/opt/tool/id cap_chown=ep\n",
    );
    // On the disk it is the container's: that of any user namespace that it may run in later.
    let upper = world.root.join("containers/box/upper");
    // VFS_CAP_REVISION_2, which names no user namespace (linux/capability.h).
    let python = "import os, sys; print(os.getxattr(sys.argv[1], 'security.capability').hex())";
    let file = upper.join("tmp/copy/opt/tool/id").display().to_string();
    let capability = world.run("python3", &["-c", python, &file]).go().ok().stdout;
    assert!(capability.starts_with("01000002"), "{capability}");
    assert!(fs::symlink_metadata(upper.join("opt/tool/data")).is_ok());
    let look = "stat -c '%u:%g %a' /opt/tool/data /home/bob/f /var/lib/tool; getcap /tmp/copy/opt/tool/id; su bob -c 'cat ~/f; id -u'";
    let before = sh(world, look).ok().stdout;
    world.quilt(&["stop", "box"]).ok();
    world.quilt(&["start", "box"]).ok();
    says(world, look, &before);
    says(world, "apt-get -qq remove -y tool >/dev/null 2>&1; test ! -e /opt/tool; echo gone", "gone\n");
}

fn pip_git_and_python(world: &World) {
    let pip = r#"
mkdir -p /tmp/k/qk; echo 'WORD = "installed"' >/tmp/k/qk/__init__.py
printf 'from setuptools import setup\nsetup(name="qk", version="1", packages=["qk"])\n' >/tmp/k/setup.py
python3 -m venv /tmp/v
/tmp/v/bin/pip -q install --no-build-isolation --no-index /tmp/k 2>/dev/null
/tmp/v/bin/python -c 'import qk; print(qk.WORD)'
"#;
    says(world, pip, "installed\n");
    let git = r#"
git init -q /tmp/r; cd /tmp/r; git config user.email a@example.org; git config user.name a
echo x >f; git add f; git commit -qm one; git log --format=%s
adduser --quiet --disabled-password --gecos '' bob
git clone -q /tmp/r /home/bob/r; chown -R bob /home/bob/r
su bob -c 'cd ~/r; echo y >>f; git -c user.email=b@example.org -c user.name=b commit -qam two; git log --format=%s'
git -C /home/bob/r log 2>&1 | grep -o 'dubious ownership' || true
"#;
    says(world, git, "one\ntwo\none\ndubious ownership\n");
    let python = r#"
python3 - <<'X'
import ctypes, os, socket, tempfile, multiprocessing
socket.socket().bind(("0.0.0.0", 80))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
lib = ctypes.CDLL(None)
assert lib.mq_open(b"/q", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
print(os.stat("/dev/mqueue/q").st_uid, multiprocessing.Semaphore(1).acquire())
os.chown(tempfile.mkdtemp(), 65534, 65535)
try:
    os.chown(tempfile.mkdtemp(), 65536, 0)
except OSError as e:
    print(e.strerror)
X
"#;
    says(world, python, "0 True\nInvalid argument\n");
}

fn setuid_programs_if_they_may(world: &World) {
    let script = r#"
adduser --quiet --disabled-password --gecos '' bob
echo 'bob ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/bob
cp /usr/bin/id /usr/bin/own; chown bob /usr/bin/own; chmod 4755 /usr/bin/own
own -u; su bob -c 'sudo id -u; sudo stat -c %U /etc/shadow; sudo cat /proc/1/uid_map | wc -l'
"#;
    says(world, script, "1000\n0\nroot\n1\n");
    // Nobody becomes the host's root by it.
    let nobody = "cp /usr/bin/sleep /usr/bin/doze; chmod 6755 /usr/bin/doze; su bob -c 'doze 4244 >/dev/null 2>&1 &'";
    sh(world, nobody).ok();
    let pid = sh(world, "pidof doze || true").ok().stdout;
    assert_ne!(pid.trim(), "");
    let found = world.quilt(&["top", "--json", "box"]).ok().objects();
    let doze = found.iter().find(|p| p.to_string().contains("4244")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", doze["host_pid"])).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let mut uids = uids.split_whitespace().map(|n| n.parse::<u32>().unwrap());
    assert!(uids.all(|uid| uid >= 1 << 30), "{status}");
}
