defmodule Mix.Tasks.Leash.Runs do
  @shortdoc "Lists runs, and whether they are alive"

  @moduledoc """
  Lists runs, and whether they are alive: `leash runs` with the run directory of the project.

      $ mix leash.runs [--all] [--json]

  Neither the project nor Leash is started. `mix leash.runs --help` and `guides/cli.md` say more, among it what the exit statuses
  mean.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("runs", arguments)
end
