# What the scripts of ops/real share; sourced by them.
#
# Needs $kloros, $scratch, and domains/NAME.toml and dream.yaml in $scratch/home. KLOROS_REAL_VALIDATOR is more lines under [validator],
# as in "calibrate_blocks = 0", which is less sure and sooner done.

daemon=

# Writes the settings of the home. What is asked is asked because nothing is wrong: whether there is something better.
settings() {
    cat >"$scratch/home/kloros.toml" <<SETTINGS
[shell]
metrics_address = "127.0.0.1:0"
[gate]
autonomy = 3
[curiosity]
idle_after_s = 1
idle = { max_candidates = ${KLOROS_REAL_CANDIDATES:-8}, max_generations = ${KLOROS_REAL_GENERATIONS:-3} }
[validator]
blocks_max = ${KLOROS_REAL_BLOCKS:-15}
${KLOROS_REAL_VALIDATOR:-}
SETTINGS
}

# Runs the loop until its first question ended, and what it changed is judged; KLOROS_REAL_MINUTES (90) at most.
run_loop() {
    "$kloros" --home "$scratch/home" run --seed 7 2>"$scratch/daemon.log" &
    daemon=$!
    until=$(($(date +%s) + ${KLOROS_REAL_MINUTES:-90} * 60))
    while kill -0 "$daemon" && ! python3 ops/real/facts.py over "$kloros" "$scratch/home" && [ "$(date +%s)" -lt "$until" ]; do
        sleep 5
    done
    end_daemon
}

end_daemon() {
    [ -z "$daemon" ] || kill -INT "$daemon" 2>/dev/null || true
    wait
    daemon=
}

# Ends what the script started and removes what it made.
stop() {
    end_daemon
    end_service
    rm -rf "$scratch"
}
