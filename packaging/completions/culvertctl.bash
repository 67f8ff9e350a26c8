# bash completion for culvertctl
_culvertctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words="" command="" word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
      -*) ;;
      *) if [[ " status allocations drops cores top health trace capture explain config limits schema drain reload close mint user " == *" $word "* ]]; then command=$word; break; fi ;;
    esac
  done
  case $prev in
    --socket | --database) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --algorithm) COMPREPLY=($(compgen -W "sha1 sha256" -- "$cur")); return ;;
  esac
  case $command in
    "") words="status allocations drops cores top health trace capture explain config limits schema drain reload close mint user --version" ;;
    allocations) words="--user --realm --client --relay --limit --no-counters" ;;
    drops) words="--all --per-core" ;;
    top) words="--once --interval" ;;
    trace) words="--count --seconds --client --peer --relay --outcome" ;;
    capture) words="--count --seconds --client --peer --relay --outcome --payload"
      COMPREPLY=($(compgen -f -- "$cur")) ;;
    drain) words="--off" ;;
    close) words="--user --realm --client --relay --all" ;;
    mint) words="--user --realm --ttl --algorithm --secret --secret-stdin" ;;
    user) words="add list remove --realm --database --password-stdin" ;;
  esac
  COMPREPLY+=($(compgen -W "$words --socket --json --help" -- "$cur"))
}
complete -F _culvertctl culvertctl
