# bash completion for clincus: . <(clincus completion bash)
_clincus() {
  local current=${COMP_WORDS[COMP_CWORD]} offered
  offered=$(clincus __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1)
  if [[ -n $offered ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -o filenames -F _clincus clincus
