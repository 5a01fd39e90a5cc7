#![no_main]

pointsman_fuzz::target!(pointsman_kubernetes::fuzzing::annotation);
