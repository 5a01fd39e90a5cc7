#![no_main]

pointsman_fuzz::target!(model_server::fuzzing::bundle);
