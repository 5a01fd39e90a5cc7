#![no_main]

pointsman_fuzz::target!(pointsman::fuzzing::head);
