defmodule Mix.Tasks.Leash.Tree do
  @shortdoc "Draws runs, their shims and the processes below them"

  @moduledoc """
  Draws runs, their shims and the processes below them: `leash tree` with the run directory of the
  project.

      $ mix leash.tree [RUN_ID] [--all]

  Starts neither the project nor Leash. See `mix leash.tree --help` and `guides/cli.md` for more,
  including the exit statuses.
  """

  use Mix.Task

  @impl true
  def run(arguments), do: Mix.Leash.OperatorTask.run("tree", arguments)
end
