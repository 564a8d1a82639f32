//! The attacks, by their numbers in the list of threats, and the tests that make them.
//!
//! Each is made twice where there is a defence that can be taken out (`harness/teeth.rs`): on the tools as they are released,
//! where it comes to nothing, and on a test build without that defence, where it succeeds. Others show in another way that
//! they would see it if it did.
//!
//! - A1 `attacks::attacks_by_reading_what_joins` `attacks::attacks_by_reading_find_what_is_not_hidden`
//!   `attacks::attacks_by_tracing_what_joins` `attacks::attacks_by_stopping_what_joins`
//!   `attacks::attacks_by_stopping_what_joins_among_the_hosts_processes`
//!   `attack_trace::attacks_by_tracing_find_no_way_into_the_init`
//!   `attack_trace::attacks_by_tracing_meet_nobody_without_a_filter`
//!   `attack_trace::attacks_by_tracing_find_no_environment`
//! - A2 `attacks::attacks_by_writing_to_what_joins` `spawn::the_tools_cannot_be_overwritten_from_inside`
//! - A3 `attack_caller::a_callers_descriptors_stay_outside`
//!   `attack_caller::a_callers_directories_are_no_working_directories` `attacks::attacks_by_a_working_directory`
//! - A4 `attack_image::links_of_an_image_lead_nowhere` `attacks_files::attacks_files_where_an_image_has_its_directories`
//!   `attacks_files::attacks_files_where_a_stopped_container_has_them` `hostile_image::mount_points_are_found_inside`
//!   `hostile_image::no_mount_point_is_made_outside`
//! - A5 `attack_join::a_null_device_that_is_none_is_not_opened` `attacks_files::attacks_files_that_a_tool_opens`
//!   `mounts::masks_are_what_they_must_be`
//! - A6 `attack_join::a_terminal_that_is_none_is_not_opened`
//! - A7 `attack_join::nothing_below_proc_is_opened_inside` `attack_join::a_null_device_that_is_none_is_not_opened`
//! - A8 `attack_image::a_user_that_cannot_be_is_not_root` `attacks_files::attacks_files_that_a_tool_opens`
//! - A9 `attack_caller::a_callers_capabilities_and_groups_stay_outside` `confine::confinement_is_the_same_for_all`
//! - A10 `attack_image::nothing_of_an_image_runs_unasked`
//! - A11 `attack_host::removal_stays_in_the_layer` `attacks_files::attacks_files_that_are_removed`
//! - A12 `attack_host::state_is_roots_alone` `spawn::the_state_is_roots_alone`
//! - A13 `prober::prober_finds_what_is_out` `devices::attacks_by_device_nodes` `devices::attacks_by_rights_beyond_those_given`
//!   `cgroup_inside::attacks_by_writing_to_its_cgroups` `attack_caller::a_callers_keys_stay_outside`
//!   `attack_caller::a_callers_terminal_stays_outside`
//! - A14 `prober::prober_finds_what_is_known` `prober::prober_finds_what_is_out`
//! - A15 `neighbours::nobody_sends_in_another_name` `neighbours::nothing_but_ipv4_and_arp_leaves_a_container`
//!   `neighbours::no_router_is_believed` `neighbours::neighbours_do_not_hear_each_other`
//!   `neighbours::the_way_by_the_gateway_is_closed` `neighbours::instances_do_not_reach_each_other`
//!   `neighbours::the_hosts_services_are_out_of_reach_but_for_name_servers`
//!   `neighbours::nobody_tells_lies_about_what_the_host_sends_to_others`
//!   `neighbours::the_clouds_metadata_is_out_of_reach_but_for_its_name_server`
//! - A16 `attack_host::words_stay_words`
//! - A17 `attack_image::a_name_with_a_colon_is_one_name` `attacks_files::attacks_files_at_odd_places`
//! - A18 `attack_host::output_is_bounded` `attack_host::a_check_ends_with_all_that_it_started`

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::{bin, repo, teeth};

/// What the variable is called that takes defences out; put together, as this file is no tool either.
fn switch() -> String {
    ["QUILT", "WITHOUT"].join("_")
}

fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // One file under all their names is read once.
    files.retain(|path| path.is_file());
    files.sort_by_key(|path| path.metadata().unwrap().ino());
    files.dedup_by_key(|path| path.metadata().unwrap().ino());
    let has = |path: &Path| fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes());
    files.iter().filter(|path| has(path)).map(|path| path.display().to_string()).collect()
}

/// Fails if a tool that is released knows the variable that takes defences out.
#[test]
fn no_released_tool_can_be_told_to_leave_out_a_defence() {
    assert_eq!(files_with(&bin(), &switch()), [""; 0]);
    assert!(!files_with(&teeth::bin(), &switch()).is_empty(), "it is not found where it is");
}

/// Fails if a number is missing from the list above, or a test that it names is not there.
#[test]
fn every_attack_has_its_tests() {
    let own = include_str!("attack.rs");
    let list: String = own.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let entries: Vec<&str> = list.split(" - A").skip(1).collect();
    let numbers: Vec<u32> = entries.iter().map(|entry| entry.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=18).collect::<Vec<_>>());
    for entry in entries {
        let tests: Vec<(&str, &str)> =
            entry.split('`').skip(1).step_by(2).map(|t| t.split_once("::").unwrap()).collect();
        assert!(!tests.is_empty(), "{entry}");
        for (module, test) in tests {
            let source = fs::read_to_string(repo().join(format!("tests/suite/{module}.rs"))).unwrap_or_default();
            assert!(source.contains(&format!("#[test]\nfn {test}()")), "there is no {module}::{test}");
        }
    }
}
