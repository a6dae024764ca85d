#compdef clincus
# zsh completion for clincus: put it as _clincus into a directory of $fpath
_clincus() {
  local -a offered
  offered=(${(f)"$(clincus __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
  offered=(${${offered//:/\\:}/$'\t'/:})
  if (( $#offered )); then _describe clincus offered; else _files; fi
}
if [[ $funcstack[1] == _clincus ]]; then _clincus "$@"; else compdef _clincus clincus; fi
