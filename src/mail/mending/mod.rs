//! What other programs write, made right.

mod scan;

pub(super) use scan::Scan;
