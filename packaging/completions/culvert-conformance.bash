# bash completion for culvert-conformance
_culvert_conformance() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  case $prev in
    --user | --password | --realm | --other-user | --other-password | --peer | --peer6 | --server6) return ;;
    --row) COMPREPLY=($(compgen -W "$(culvert-conformance --list 2>/dev/null | cut -d ' ' -f 1)" -- "$cur")); return ;;
    --capture) COMPREPLY=($(compgen -W "$(ls /sys/class/net)" -- "$cur")); return ;;
  esac
  COMPREPLY=($(compgen -W "--user --password --realm --other-user --other-password --peer --peer6 --server6 --capture --row --json --slow --list --help" -- "$cur"))
}
complete -F _culvert_conformance culvert-conformance
