defmodule Mix.Tasks.Leash.Tree do
  @shortdoc "Draws runs, their shims and the processes below them"

  @moduledoc """
  Draws runs, their shims and the processes below them: `leash tree` with the run directory of the project.

      $ mix leash.tree [RUN_ID] [--all]

  Neither the project nor Leash is started. `mix leash.tree --help` and `guides/cli.md` say more, among it what the exit statuses
  mean.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("tree", arguments)
end
