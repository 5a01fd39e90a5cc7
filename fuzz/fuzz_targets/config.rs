#![no_main]

pointsman_fuzz::target!(pointsman_config::fuzzing::config);
