//! Today's clients of the Internet Computer against networks of this binary, everything verified.
mod agent;
mod icp;
mod offered;
mod support;
