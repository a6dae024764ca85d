# fish completion for clincus: clincus completion fish >~/.config/fish/completions/clincus.fish
function __clincus_offered
  clincus __complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c clincus -n 'count (__clincus_offered) >/dev/null' -f -a '(__clincus_offered)'
