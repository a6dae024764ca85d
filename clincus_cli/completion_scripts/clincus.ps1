# powershell completion for clincus: clincus completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName clincus -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $before = @($commandAst.CommandElements | Select-Object -Skip 1 |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition } | ForEach-Object { $_.Extent.Text })
    & clincus __complete -- @before "$wordToComplete" 2>$null | ForEach-Object {
        $offered, $meaning = $_ -split "`t", 2
        if ($offered.StartsWith($wordToComplete)) {
            $tip = if ($meaning) { $meaning } else { $offered }  # it may not be empty
            [System.Management.Automation.CompletionResult]::new($offered, $offered, 'ParameterValue', $tip)
        }
    }
}
