# bash completion for culvert-load
_culvert_load() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} mode="" words="" word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      relay | search | churn | idle | binding | hostile | calibrate) mode=$word; break ;;
    esac
  done
  case $prev in
    --family) COMPREPLY=($(compgen -W "4 6 cross" -- "$cur")); return ;;
    --direction) COMPREPLY=($(compgen -W "to-peer to-client both" -- "$cur")); return ;;
    --topology) COMPREPLY=($(compgen -W "client-peer client-client" -- "$cur")); return ;;
    --encoding) COMPREPLY=($(compgen -W "channel send" -- "$cur")); return ;;
    --attack | --flood) COMPREPLY=($(compgen -W "allocate binding malformed" -- "$cur")); return ;;
    --driver) COMPREPLY=($(compgen -W "sockets dpdk" -- "$cur")); return ;;
    --queue-of) COMPREPLY=($(compgen -W "hash owner other" -- "$cur")); return ;;
    --transport) COMPREPLY=($(compgen -W "udp" -- "$cur")); return ;;
    --json) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  case $mode in
    "") words="relay search churn idle binding hostile calibrate --version" ;;
    relay) words="--server --server-pid --duration --user --password --realm --rfc5389 --transport \
      --family --size --rate --ramp --unpaced --tick-us --sleep --run-length --gso --no-gro \
      --clients --peers --channels --peer-address --bare --direction --topology \
      --encoding" ;;
    search) words="--server --server-pid --user --password --realm --rfc5389 --transport --family \
      --size --tick-us --sleep --run-length --gso --no-gro --clients --peers --channels \
      --peer-address --bare --direction --topology --encoding --min-rate --max-rate \
      --loss --exceed --width --initial-trial --final-trial --duration-sum --max-time" ;;
    churn) words="--server --server-pid --duration --user --password --realm --rfc5389 --transport \
      --family --clients --rate" ;;
    idle) words="--server --server-pid --duration --user --password --realm --rfc5389 --transport \
      --family --clients --channels --peer-address --permissions" ;;
    binding) words="--server --server-pid --duration --clients --rate" ;;
    hostile) words="--server --server-pid --duration --attack --count --rate" ;;
    calibrate) words="--duration --size --rate --ramp --unpaced --tick-us --sleep --run-length --gso --no-gro \
      --clients" ;;
  esac
  [ -z "$mode" ] || words="$words --driver --eal --flood --flood-rate --gateway --port-address --queue-of --queues --reflector --json --local --quiet --seed --spoof --threads --warm-up"
  COMPREPLY=($(compgen -W "$words --help" -- "$cur"))
}
complete -F _culvert_load culvert-load
