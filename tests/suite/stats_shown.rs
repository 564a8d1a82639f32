//! Of which containers `quilt stats` speaks, how often, and in what form.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::harness::{World, eventually, repo};
use crate::stats::{LONG, into_file, lines};

#[test]
fn which_containers() {
    let world = World::new("stats-which");
    world.quilt(&["stats"]).is(0, "", "");
    for name in ["a", "b", "c"] {
        world.create(name, &[]);
    }
    world.quilt(&["stop", "c"]).ok();
    let shown = |args: &[&str]| {
        let out = world.quilt(&[&["stats"], args].concat());
        let ids: Vec<String> = out.objects().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        (out.status, ids.join(" "), out.stderr.lines().count())
    };
    assert_eq!(shown(&[]), (0, "a b".to_owned(), 0));
    assert_eq!(shown(&["--all"]), (0, "a b".to_owned(), 0));
    assert_eq!(shown(&["b", "a"]), (0, "b a".to_owned(), 0));
    assert_eq!(shown(&["a", "nobody", "c", "b"]), (11, "a b".to_owned(), 2));
    for name in ["c", "nobody"] {
        world.quilt(&["stats", name]).refused("quilt-stats", "not_found");
        world.quilt(&["stats", "--table", "--watch", "1", name]).refused("quilt-stats", "not_found");
    }
    for bad in [&["--all", "a"][..], &["--watch", "0"], &["--watch", "x"], &["--json", "--table"], &["../a"]] {
        world.quilt(&[&["stats"], bad].concat()).misused();
    }
}

#[test]
fn a_watch_ends_with_what_it_watches() {
    let world = World::new("stats-watch");
    world.create("a", &[]);
    world.create("b", &[]);
    let (named, all) = (world.path("named"), world.path("all"));
    let watch = into_file(&world, &named, "--watch 50ms a nobody b");
    let others = into_file(&world, &all, "--watch 0.05");
    let last = |file: &Path| lines(file).last().map(|line| line["id"].clone()).unwrap_or_default();
    let count = |file: &Path, id: &str| lines(file).iter().filter(|line| line["id"] == id).count();
    assert!(eventually(LONG, || [&named, &all].iter().all(|file| count(file, "a") > 2 && count(file, "b") > 2)));
    world.quilt(&["rm", "-f", "b"]).ok();
    let so_far = count(&named, "a");
    assert!(eventually(LONG, || count(&named, "a") > so_far + 2 && last(&named) == "a"));
    world.quilt(&["stop", "a"]).ok();
    // That it never knew of `nobody` is its status; that the others have ended is none.
    let out = watch.finish();
    assert_eq!((out.status, out.stderr.as_str()), (11, "quilt-stats: no container named nobody\n"), "{out:?}");
    // All that run: none now, one that was started again, and so on until a signal.
    world.quilt(&["start", "a"]).ok();
    let so_far = count(&all, "a");
    assert!(eventually(LONG, || count(&all, "a") > so_far + 2));
    others.signal(Signal::SIGTERM);
    others.finish().is(0, "", "");
}

#[test]
fn a_reader_that_goes_or_sleeps() {
    let world = World::new("stats-reader");
    world.create("a", &[]);
    let quilt = repo().join("scripts/quilt").display().to_string();
    let line = format!("{quilt} stats --watch 0.01 | head -n 2 | wc -l");
    world.run("sh", &["-c", &line]).go().is(0, "2\n", "");
    // Nobody reads: a signal ends it all the same.
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let keep = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let watch = into_file(&world, &fifo, "--watch 0.01");
    let full = || poll(&mut [PollFd::new(keep.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO).unwrap() == 0;
    assert!(eventually(LONG, full));
    watch.signal(Signal::SIGINT);
    let out = watch.finish();
    assert_eq!((out.status, out.stderr.as_str()), (0, ""));
}

#[test]
fn tables() {
    let world = World::new("stats-table");
    world.create("web", &["--memory", "64"]);
    let headings = "NAME CPU% CPUS THROTTLED MEMORY LIMIT PEAK OOM PIDS RX TX READ WRITTEN";
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let table = world.quilt(&["stats", "--table"]).ok().stdout;
    let rows: Vec<String> = table.lines().map(words).collect();
    assert_eq!((rows.len(), rows[0].as_str()), (2, headings), "{table}");
    let cells: Vec<&str> = rows[1].split(' ').collect();
    assert_eq!((cells.len(), cells[0], cells[2], cells[5], cells[7], cells[8]), (13, "web", "-", "64MiB", "0", "1"));
    // On a terminal a table, unless told otherwise; watched, one over the other.
    let quilt = repo().join("scripts/quilt").display().to_string();
    let tty = |verb: &str| world.on_terminal(24, 120, verb).ok().stdout;
    assert_eq!(words(tty(&format!("{quilt} stats")).lines().next().unwrap()), headings);
    assert!(tty(&format!("{quilt} stats --json")).starts_with("{\"id\":\"web\""));
    // The second one is there to count: it ends after twenty lines.
    let both = "stats --watch 0.1 web & QUILT stats --json --watch 0.1 web | head -n 20 >/dev/null; kill $!; wait $!";
    let drawn = tty(&format!("{quilt} {}", both.replace("QUILT", &quilt)));
    let frames: Vec<&str> = drawn.split("\x1b[H").skip(1).collect();
    assert!(frames.len() > 2 && drawn.starts_with("\x1b[H"), "{drawn:?}");
    for frame in frames {
        let frame = frame.strip_suffix("\x1b[J").unwrap().replace("\x1b[K", "");
        assert_eq!((frame.lines().count(), words(frame.lines().next().unwrap()).as_str()), (2, headings), "{drawn:?}");
    }
    // Elsewhere one below the other.
    let file = world.path("blocks");
    let watch = into_file(&world, &file, "--table --watch 0.02");
    let text = || fs::read_to_string(&file).unwrap_or_default();
    assert!(eventually(LONG, || text().matches("NAME").count() > 2));
    watch.signal(Signal::SIGHUP);
    watch.finish().is(0, "", "");
    assert!(text().split("\n\n").all(|block| block.trim_end().lines().count() == 2), "{}", text());
}
