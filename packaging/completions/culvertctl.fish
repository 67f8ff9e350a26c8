# fish completion for culvertctl
complete -c culvertctl -f
complete -c culvertctl -n __fish_use_subcommand -a status
complete -c culvertctl -n __fish_use_subcommand -a allocations
complete -c culvertctl -n __fish_use_subcommand -a drops
complete -c culvertctl -n __fish_use_subcommand -a cores
complete -c culvertctl -n __fish_use_subcommand -a explain
complete -c culvertctl -n __fish_use_subcommand -a top
complete -c culvertctl -n __fish_use_subcommand -a health
complete -c culvertctl -n __fish_use_subcommand -a trace
complete -c culvertctl -n __fish_use_subcommand -a capture
complete -c culvertctl -n __fish_use_subcommand -a config
complete -c culvertctl -n __fish_use_subcommand -a limits
complete -c culvertctl -n __fish_use_subcommand -a schema
complete -c culvertctl -n __fish_use_subcommand -a drain
complete -c culvertctl -n __fish_use_subcommand -a reload
complete -c culvertctl -n __fish_use_subcommand -a close
complete -c culvertctl -n __fish_use_subcommand -a mint
complete -c culvertctl -n __fish_use_subcommand -a user
complete -c culvertctl -l socket -r -F -d 'control socket'
complete -c culvertctl -l json -d 'print JSON'
complete -c culvertctl -n '__fish_seen_subcommand_from allocations close mint user' -l user -x
complete -c culvertctl -n '__fish_seen_subcommand_from allocations close mint user' -l realm -x
complete -c culvertctl -n '__fish_seen_subcommand_from allocations close mint user' -l client -x
complete -c culvertctl -n '__fish_seen_subcommand_from allocations close mint user' -l relay -x
complete -c culvertctl -n '__fish_seen_subcommand_from drops close' -l all
complete -c culvertctl -n '__fish_seen_subcommand_from drops' -l per-core
complete -c culvertctl -n '__fish_seen_subcommand_from drain' -l off
complete -c culvertctl -n '__fish_seen_subcommand_from mint' -l ttl -x
complete -c culvertctl -n '__fish_seen_subcommand_from mint' -l algorithm -xa 'sha1 sha256'
complete -c culvertctl -n '__fish_seen_subcommand_from user' -a 'add list remove'
complete -c culvertctl -n '__fish_seen_subcommand_from user' -l database -r -F
complete -c culvertctl -n '__fish_seen_subcommand_from top' -l once
complete -c culvertctl -n '__fish_seen_subcommand_from top' -l interval -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l count -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l seconds -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l client -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l peer -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l relay -x
complete -c culvertctl -n '__fish_seen_subcommand_from trace capture' -l outcome -x
complete -c culvertctl -n '__fish_seen_subcommand_from capture' -l payload
complete -c culvertctl -n '__fish_seen_subcommand_from capture' -F
