defmodule Mix.Tasks.Leash.Runs do
  @shortdoc "Lists runs, and whether they are alive"

  @moduledoc """
  Lists runs, and whether they are alive: `leash runs` with the run directory of the project.

      $ mix leash.runs [--all] [--json]

  Starts neither the project nor Leash. See `mix leash.runs --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("runs", arguments)
end
