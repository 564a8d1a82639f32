//! `quilt-stats`: what containers use.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Form, Root, complain_of};
use quilt_ops::output::put;
use quilt_ops::stats::{Every, Pace, Round, Sampler, table};
use quilt_record::error::report;
use quilt_record::{Id, signals};

/// Show what containers use (memory, CPU, processes, disk, network, pressure): a table on a terminal, JSON lines otherwise
#[derive(Parser)]
#[command(name = "quilt-stats", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// The containers' names [default: all that run]
    #[arg(value_name = "NAME", conflicts_with = "all")]
    ids: Vec<Id>,

    /// All that run
    #[arg(long)]
    all: bool,

    /// Again and again, until interrupted or until all that were named have ended: 2, 0.5, 500ms
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<Every>,

    #[command(flatten)]
    form: Form,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    report("quilt-stats", run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let instance = cli.root.locate()?;
    let mut sampler = Sampler::new(&instance, (!cli.ids.is_empty()).then(|| cli.ids.clone()));
    let Some(every) = cli.watch else {
        let round = sampler.round()?;
        put(show(cli, &round, true)?.as_bytes())?;
        return Ok(complain(&round).unwrap_or(ExitCode::SUCCESS));
    };
    signals::block();
    let mut pace = Pace::new(every)?;
    let (mut status, mut first) = (None, true);
    loop {
        let round = sampler.round()?;
        let goes_on = pace.put(show(cli, &round, first)?.as_bytes())?;
        status = status.or(complain(&round));
        first = false;
        if !goes_on || sampler.is_over() || !pace.wait()? {
            return Ok(status.unwrap_or(ExitCode::SUCCESS));
        }
    }
}

/// What a round is printed as: on a terminal, over the one before.
fn show(cli: &Cli, round: &Round, first: bool) -> anyhow::Result<String> {
    if round.stats.is_empty() && !cli.ids.is_empty() {
        return Ok(String::new());
    }
    if !cli.form.is_table() {
        let line = |stats| Ok(serde_json::to_string(stats)? + "\n");
        return round.stats.iter().map(line).collect();
    }
    let table = table(&round.stats);
    Ok(match cli.watch {
        // console_codes(4): to the top left; erase to the end of each line, and of the screen.
        Some(_) if stdout().is_terminal() => format!("\x1b[H{}\x1b[J", table.replace('\n', "\x1b[K\n")),
        Some(_) if !first => format!("\n{table}"),
        _ => table,
    })
}

/// Says what failed; the status, if anything did.
fn complain(round: &Round) -> Option<ExitCode> {
    let codes = round.failed.iter().map(|(id, error)| complain_of("quilt-stats", id, &error.clone().into()));
    let codes: Vec<_> = codes.collect();
    codes.first().map(|code| ExitCode::from(code.status()))
}
