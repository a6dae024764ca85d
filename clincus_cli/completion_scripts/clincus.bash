# bash completion for clincus: . <(clincus completion bash)
_clincus() {
  local words=() rest=${COMP_LINE#"${COMP_WORDS[0]}"} last=${COMP_WORDS[COMP_CWORD]} piece current offered
  # Bash breaks words at : and =, as in tower:clincus-ec0578-1 and --format=json: join what has no blank in between.
  for piece in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
    if [[ $rest != [[:space:]]* && ${#words[@]} -gt 0 && ($piece == [:=]* || ${words[-1]} == *[:=]) ]]; then
      words[-1]+=$piece
    else
      words+=("$piece")
    fi
    rest=${rest#"${rest%%[![:space:]]*}"}
    rest=${rest#"$piece"}
  done
  current=${words[-1]}
  [[ $last == [:=]* && $current != "$last" ]] && last=
  offered=$(clincus __complete -- "${words[@]}" 2>/dev/null | cut -f 1)
  if [[ -n $offered ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
    COMPREPLY=("${COMPREPLY[@]#"${current%"$last"}"}") # bash replaces only what stands behind the last : or =
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$last")
  fi
}
complete -o filenames -F _clincus clincus
