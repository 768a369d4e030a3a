# Lists the recipes.
default:
    @just --list

# Formatting, lints, documentation, tests: what CI runs.
check:
    .ci/run

# A model answers inside a canister on four replicas.
demo *ARGUMENTS:
    cargo run --release -- demo {{ARGUMENTS}}

# Approves changed kernel bits: rewrites vectors/. A new arithmetic version, unless a kernel is new.
vectors-approve:
    LOCKSTEP_APPROVE_VECTORS=1 cargo test --release --package lockstep-numeric --test vectors

# All 2^32 inputs of every elementary function, or of those named, against an independent oracle (hours).
exhaustive *ARGUMENTS:
    cargo run --release --package lockstep-numeric --example exhaustive -- {{ARGUMENTS}}

# Products' speed for the default model's shapes.
throughput:
    cargo run --release --package lockstep-numeric --example throughput

# Modules that nobody wrote, by the ten thousand (an hour).
fuzz:
    cargo test --release --package lockstep-canister --test it fuzz -- --ignored

# Licences, advisories and sources of all dependencies.
deny:
    cargo deny check

# Subnets in virtual time with faults from so many seeds (a second or two each), and what must hold of them.
sim SEEDS="30" FIRST="0":
    cargo run --release --package lockstep-simulation --example sim -- {{FIRST}} {{SEEDS}}

# A subnet of four replicas on this machine: throughput, latency, costs, recovery (some minutes; bench/subnet/README.md).
bench-subnet *ARGUMENTS:
    cargo build --release --locked --workspace --bins
    "${CARGO_TARGET_DIR:-target}/release/lockstep-bench-subnet" {{ARGUMENTS}}
