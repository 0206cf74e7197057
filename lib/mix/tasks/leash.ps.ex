defmodule Mix.Tasks.Leash.Ps do
  @shortdoc "Lists the processes of workers"

  @moduledoc """
  Lists the processes of workers: `leash ps` with the run directory of the project.

      $ mix leash.ps [--all] [--shims] [--json]

  Starts neither the project nor Leash. See `mix leash.ps --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("ps", arguments)
end
