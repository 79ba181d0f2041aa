//! The service as a process, while something around it fails: its disk, its descriptors, its clock,
//! its callers' number. What needs a file system of its own needs root, or sudo without a password;
//! where neither is, it says so and is skipped.
#![cfg(all(feature = "server", target_os = "linux"))]

mod clock;
mod counting;
mod crowd;
mod descriptors;
mod disk;
mod disk_broken;
mod disk_full;
mod followers;
mod greedy;
mod guessing;
mod hostile;
mod rights;
mod service_dir;
