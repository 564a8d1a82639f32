//! What a dry run says about the probe, and about the whole create.

use std::io::{self, Write};

use quilt_record::record::STAGES;
use quilt_record::{Error, Record, Step};
use serde::Deserialize;

use crate::Want;
use crate::entered::seconds;
use crate::look;

/// What the probe would look at, one line for each phase.
pub(crate) fn plan(record: &Record, want: &Want) -> Result<Vec<String>, Error> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Asked {
        network: Option<String>,
    }
    let network = record.want::<Asked>("netns")?.network;
    let network = match network.as_deref() {
        Some("host") => "skip the network phase: the host's network",
        Some("none") => "look at the loopback interface",
        _ => "look at eth0, its address and route, and wait for the gateway to answer ARP",
    };
    let check = want.command()?;
    let enter = match check {
        Some(_) => "fork into the container, into a cgroup of its own",
        None => "fork into the container, into the init's cgroup",
    };
    let mut lines = vec![
        "open a pidfd on the init and compare its start time".to_owned(),
        format!("compare its namespaces with the host's: {}", look::asked(record)?.join(" ")),
        format!("{enter}, and wait for a nonce to come back"),
        network.to_owned(),
    ];
    if want.security {
        lines.push("fork into the container, and hold what it sees and may do there against the rules".to_owned());
    }
    if let Some(words) = check {
        let (tries, limit) = (want.retries(), seconds(want.try_limit()));
        lines.push(format!("run {words:?} inside until it exits with 0: at most {tries} failures of {limit} each"));
    }
    Ok(lines)
}

/// Prints the plans of all stages up to this one, as lines of stage, tab, step.
pub(crate) fn print(record: &Record, own: &[String]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Planned {
        plan: Option<Vec<String>>,
    }
    let mut text = String::new();
    let mut add = |stage: &str, steps: &[String]| {
        steps.iter().for_each(|step| text.push_str(&format!("{stage}\t{}\n", step.replace('\n', "\\n"))));
    };
    for stage in STAGES.into_iter().filter(|stage| *stage != "probe") {
        let planned = record.get::<Planned>(stage)?.and_then(|section| section.plan);
        add(stage, planned.as_deref().unwrap_or_default());
    }
    add("probe", own);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).step(|| "print the plan")
}
