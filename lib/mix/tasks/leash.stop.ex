defmodule Mix.Tasks.Leash.Stop do
  @shortdoc "Asks the living VMs to end a worker or a group"

  @moduledoc """
  Asks the living VMs to end a worker or a group: `leash stop` with the run directory of the
  project.

      $ mix leash.stop NAME|GROUP [--run RUN_ID | --all-runs] [--deadline MS] [--json]

  Starts neither the project nor Leash. See `mix leash.stop --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("stop", arguments)
end
