//! The suite that every kind of spool passes.
