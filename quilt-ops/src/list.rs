//! `quilt ls`: a table for a person, JSON lines for a program.

use quilt_record::{Code, Container, Error, Instance};
use std::str::FromStr;

use crate::output::{cell, columns};
use crate::state::{Status, Summary, look};

/// Which containers to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those in this state; a paused one runs.
    pub status: Option<Status>,
    /// Only those that have all of these labels.
    pub labels: Vec<Label>,
}

/// `KEY=VALUE`, or `KEY` with any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    key: String,
    value: Option<String>,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Label, String> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
        if key.is_empty() { Err("a label is KEY=VALUE".to_owned()) } else { Ok(Label { key: key.to_owned(), value }) }
    }
}

impl Filter {
    fn takes(&self, summary: &Summary) -> bool {
        let paused = summary.status == Status::Paused;
        self.status.is_none_or(|status| status == summary.status || (status == Status::Running && paused))
            && self.labels.iter().all(|label| match (summary.labels.get(&label.key), &label.value) {
                (Some(has), Some(value)) => has.as_str() == Some(value),
                (has, None) => has.is_some(),
                (None, _) => false,
            })
    }
}

/// The containers of the instance, by name.
pub fn list(instance: &Instance, filter: &Filter) -> Result<Vec<Summary>, Error> {
    let mut summaries = Vec::new();
    for id in Container::list(instance)? {
        match look(instance, &id) {
            Ok((summary, _)) if filter.takes(&summary) => summaries.push(summary),
            Ok(_) => {}
            // Removed meanwhile.
            Err(e) if e.code == Code::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(summaries)
}

/// The table: a line of headings, then one for each.
pub fn table(summaries: &[Summary]) -> String {
    let mut rows = vec![["NAME", "STATUS", "PID", "IP", "IMAGE", "CREATED", "LABELS"].map(str::to_owned)];
    for s in summaries {
        let labels = s.labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
        rows.push([
            s.id.to_string(),
            s.status.as_str().to_owned(),
            cell(s.pid),
            cell(s.ip),
            cell(s.image.as_ref()),
            cell(s.created.as_deref().map(|at| at.get(..19).unwrap_or(at).replace('T', " "))),
            cell(Some(labels.collect::<Vec<_>>().join(","))),
        ]);
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn summary(id: &str, status: Status, labels: &[(&str, &str)]) -> Result<Summary, String> {
        let labels: Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let created = Some("2026-01-02T03:04:05.678Z".to_owned());
        Ok(Summary { id: id.parse()?, status, pid: None, ip: None, image: None, created, labels })
    }

    #[test]
    fn a_table() -> Result<(), String> {
        let mut web = summary("web", Status::Running, &[("team", "a")])?;
        (web.pid, web.image) = (Some(77), Some("./a.tar\x1b[2J".to_owned()));
        assert_eq!(
            table(&[web, summary("longer-name", Status::Stopped, &[])?]),
            "NAME         STATUS   PID  IP  IMAGE             CREATED              LABELS\n\
             web          running  77   -   ./a.tar\\u{1b}[2J  2026-01-02 03:04:05  team=a\n\
             longer-name  stopped  -    -   -                 2026-01-02 03:04:05  -\n"
        );
        Ok(())
    }

    #[test]
    fn labels_select() -> Result<(), String> {
        let web = summary("web", Status::Running, &[("team", "a")])?;
        for (labels, expected) in
            [(vec![], true), (vec!["team=a"], true), (vec!["team"], true), (vec!["team=b"], false), (vec!["x"], false)]
        {
            let labels = labels.iter().map(|l| l.parse()).collect::<Result<_, _>>()?;
            assert_eq!(Filter { status: None, labels }.takes(&web), expected);
        }
        Ok(())
    }

    #[test]
    fn a_paused_one_runs() -> Result<(), String> {
        let takes = |asked, status| {
            let summary = summary("web", status, &[])?;
            Ok::<bool, String>(Filter { status: Some(asked), labels: Vec::new() }.takes(&summary))
        };
        assert!(takes(Status::Running, Status::Paused)? && takes(Status::Running, Status::Running)?);
        assert!(!takes(Status::Stopped, Status::Paused)? && !takes(Status::Running, Status::Stopped)?);
        Ok(())
    }
}
