defmodule Mix.Leash.OperatorTask do
  # What the tasks `mix leash.*` share: they run the command `leash` with the project's configuration and end with its status.
  @moduledoc false

  @spec run(String.t(), [String.t()]) :: :ok
  def run(command, arguments) do
    configure()

    case Leash.Operator.run([command | arguments]) do
      0 -> :ok
      status -> exit({:shutdown, status})
    end
  end

  # Compiled and configured, and nothing started. Quietly: what is printed may be JSON for a program.
  defp configure do
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Quiet)

    try do
      Mix.Task.run("app.config")
    after
      Mix.shell(shell)
    end
  end
end
