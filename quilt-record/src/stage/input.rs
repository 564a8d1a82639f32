//! What a stage begins with: the record, and what is asked of the stage in it and on the command line.

use std::io::{self, BufRead, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{StageArgs, tool};
use crate::claim::Claim;
use crate::container::Container;
use crate::error::{Code, Error, complain};
use crate::instance::Instance;
use crate::record::{RECORD_MAX, Record};
use crate::takeover::done_in_this_boot;

/// Where the record comes from.
pub(super) enum Input {
    /// Standard input.
    Pipe,
    /// This process.
    Record(Record),
    /// The container's directory, or nowhere.
    Saved,
}

/// The record of one line of standard input.
pub(super) fn read_record() -> Result<Record, Error> {
    let mut line = String::new();
    let read = io::stdin().lock().take(RECORD_MAX).read_line(&mut line);
    match read {
        Err(e) => Err(Error::os("read the record from standard input", e)),
        Ok(0) => Err(Error::new(
            Code::Interrupted,
            "read the record",
            "standard input ended without one: the step before died",
        )),
        Ok(_) => Record::parse(&line),
    }
}

/// Without a record: the saved one of `--id`, or a new one.
pub(super) fn saved_or_new(name: &str, args: &StageArgs, instance: &Instance) -> Result<Record, Error> {
    let Some(id) = &args.id else { usage(name) };
    match Container::open(instance, id) {
        Ok(container) => {
            let record = container.record()?;
            if name != "probe" && done_in_this_boot(&record, name)? {
                return Err(Error::new(Code::Exists, "", format!("{name} is done for the container {id} already")));
            }
            Ok(record)
        }
        Err(e) if e.code == Code::NotFound && name != "probe" => Ok(Record::new(id, &Claim::generate())),
        Err(e) => Err(e),
    }
}

/// The record's `want` of the stage under what the flags say, checked against the stage's type.
pub(super) fn merged<W: Serialize + DeserializeOwned>(record: &Record, name: &str, flags: &W) -> Result<W, Error> {
    let bad =
        |e: serde_json::Error| Error::new(Code::Invalid, format!("read `{name}.want` of the record"), e.to_string());
    let mut want: Map<String, Value> = record.want(name)?;
    if let Value::Object(given) = serde_json::to_value(flags).map_err(bad)? {
        want.extend(given);
    }
    serde_json::from_value(Value::Object(want)).map_err(bad)
}

pub(super) fn usage(stage: &str) -> ! {
    complain(&tool(stage), &Error::new(Code::Invalid, "", "give `-` to read a record, or --id NAME (see --help)"));
    std::process::exit(2)
}
