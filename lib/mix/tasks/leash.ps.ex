defmodule Mix.Tasks.Leash.Ps do
  @shortdoc "Lists the processes of workers"

  @moduledoc """
  Lists the processes of workers: `leash ps` with the run directory of the project.

      $ mix leash.ps [--all] [--shims] [--json]

  Neither the project nor Leash is started. `mix leash.ps --help` and `guides/cli.md` say more, among it what the exit statuses
  mean.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("ps", arguments)
end
