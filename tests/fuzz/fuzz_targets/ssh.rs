#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lamplighter::fuzzing::ssh(bytes));
